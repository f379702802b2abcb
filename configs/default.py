"""Every key once. Other files change some values; `--config.KEY=VALUE` changes them again.

None stands for a default that depends on something else, said in the key's comment.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()

    # The seed of the initial weights, the order and the noise of training; sample i is drawn with seed + i.
    config.seed = 0
    # Which moving average of the weights is used after training: its decay; None: that of training.ema_decay. Any one
    # can be reconstructed: training/reconstruct.py.
    config.average = placeholder(float)

    config.data = data = ConfigDict()
    # Images: digits, photos, cifar10; vectors: eight_gaussians, two_moons, checkerboard, swiss_roll; series: eeg;
    # fields: elevation; latents, of a published network's autoencoder, by their path alone; toy_volumes;
    # folders of images: images, celeba, lsun_bedroom, lsun_church, ffhq, celebahq
    data.dataset = "digits"
    # Your own, instead: a folder or zip of images; .npy, .npz, .h5; .csv, .parquet; IDX; CIFAR-10's batches; hf:NAME
    data.path = placeholder(str)
    # What its examples are conditioned on: arrays of an .npz or .h5, or columns of a table, comma-separated; None: …
    data.condition = placeholder(str)  # … those arrays that are called condition or condition_…
    # Captions are told by a frozen text encoder of transformers, CLIP's or T5's, in this folder; None: by their words,
    data.text_encoder = placeholder(str)  # with an encoder that is trained along
    data.folder = "datasets"  # where downloaded files are, and what is kept of pictures that were read
    data.image_size = placeholder(int)  # height that pictures are brought to, and width …
    data.image_width = placeholder(int)  # … if it is no other; without a height: as they are, all of one size
    data.resize = "crop"  # how: crop what goes beyond, pad with the background, fit by stretching, none: they have it
    data.num_channels = placeholder(int)  # 1, grey, or 3, colour; None: as they are. With both, sampling needs no files
    data.num_classes = placeholder(int)  # … nor for classes, where a published model knows this many, called 0, 1, 2 …
    # The run of an autoencoder, its checkpoint, or a folder of diffusers: models are of its latents, and keep it with
    # them: docs/systems.md
    data.autoencoder = placeholder(str)
    data.low_resolution = placeholder(int)  # condition pictures on themselves, this high: for models that enlarge them
    # Those get noise in training, of a random standard deviation from 0 to this, which the network is told, so that it
    data.low_resolution_noise = 0.0  # can enlarge what another model drew; below 1: c becomes sqrt(1 - s^2) c + s noise
    # Pictures are read this high, and brought to image_size by means over areas: as the next stage of a cascade is told
    data.shrunk_from = placeholder(int)
    # Condition pictures on their own edges, where brightness changes by more than this share of all of it a pixel: 0.15
    data.edges = placeholder(float)
    # A run of configs/unclip/embedding.py, or its checkpoint: data are its embeddings of the pictures …
    data.embedding = placeholder(str)
    data.embed_condition = placeholder(str)  # … or models of the pictures are told them, in the place of captions
    data.levels = 256  # of brightness, of a path's pictures
    data.background = "white"  # behind pictures that are transparent: a colour's name, or #ffffff
    data.damaged = "refuse"  # pictures that cannot be read: refuse, skip
    data.test_share = 0.1  # share of a path's examples set aside to test on, if no part of them is for that …
    data.split_seed = 0  # … and the seed that decides which examples these are
    data.low = -1.0  # model units of black …
    data.high = 1.0  # … and of white
    data.uniform_dequantisation = True  # add uniform noise to levels in training; False: train on levels as they are
    data.augment = ""  # random changes of training images, comma-separated: flip, shift, distort
    # Numbers without levels: what is NaN, or an empty cell, was not observed, instead of being refused. The network
    data.missing = False  # learns what is missing given the rest, and the density of what is there, whatever is missing
    # Random parts that training hides of whole examples, and learns given the rest, for edit.task=inpaint and run.fill:
    data.masks = ""  # half, box, stroke, pixels, all; several, comma-separated
    data.distortion = 0.0  # probability that a training image is distorted, which the network is told
    # The box that vectors lie in, as those of a uniform prior: lower ends, one for each number or one for all; (): none
    data.box_low = ()
    data.box_high = ()  # … and upper ends
    # Training examples set aside, for the held-out loss and for choices, if no part of the data is that: their number …
    data.validation = 0.0  # … or, below 1, their share
    data.fold = 0  # decides which examples are set aside

    config.cascade = cascade = ConfigDict()
    # Configurations, comma-separated, of the runs that draw pictures one after the other: a small one, then the same
    cascade.stages = placeholder(str)  # larger. What else is set here holds for all of them

    config.sde = sde = ConfigDict()
    # vp, subvp, ve, rectified_flow; ladders: ddpm, cosine, ncsn; learned: with training.objective=variational
    sde.name = "vp"
    sde.beta_min = 0.1  # vp, subvp, ddpm: beta(0)
    sde.beta_max = 20.0  # vp, subvp, ddpm: beta(1)
    sde.sigma_min = 0.01  # ve, ncsn: smallest noise
    sde.sigma_max = 50.0  # ve, ncsn: largest noise, about the largest distance between two examples
    sde.num_rungs = 1000  # ddpm, cosine, ncsn: rungs of the ladder
    sde.log_snr_max = 13.3  # learned: log-SNR at time 0 …
    sde.log_snr_min = -5.0  # … and at time 1 …
    sde.learn_ends = False  # … which are those at the beginning, if they are learned as well

    config.model = model = ConfigDict()
    # unet, dit: series, images, fields, volumes; ncsnpp, ddpm, adm: images; mlp: vectors, and all else as vectors;
    # mixture: of Gaussians, fitted, needs no training; classifier, adm_classifier: of noisy images;
    # kl_autoencoder, vq_autoencoder: no score model, but what makes latents of examples: data.autoencoder
    # joint_embedding: of images and captions, in one space: data.embedding, data.embed_condition
    model.network = "ncsnpp"
    model.class_conditional = False  # tell the network the classes of the data
    model.prediction = (
        "velocity"  # noise, score, denoised, velocity, edm, flow, levels: what the network's output means
    )
    # How the network is told the time: log_snr, time, sigma, rho, alpha, edm, rung, rung_of_1000, rung_from_noisiest
    model.noise_label = "log_snr"
    model.data_std = 1.0  # standard deviation of the data, for the edm prediction and scale_input
    # Of steps with noise, and of the discrete bound: fixed; learned: the network says it with twice the channels, for
    model.variance = "fixed"  # the ladders ddpm and cosine, with training.objective=hybrid
    model.precision = "float32"  # of the weights of a pipeline of latents: bfloat16, float16, float64
    model.offload = False  # its parts lie in main memory but for the one in use, on a GPU that has no room for all
    model.lora = placeholder(str)  # a file of low-rank changes that are added to a Stable Diffusion's weights …
    model.lora_scale = 1.0  # … by this factor
    model.scale_input = True  # divide the network's input by its standard deviation
    model.num_blocks = 4  # residual blocks: at each resolution, or in all (mlp, dit)
    # Tell the network a second time, so that it jumps along the flow: few-step models, training.objective=lagrangian
    model.flow_map = False
    # unet and dit: conditions with place, comma-separated, that are each heard by a copy of the encoder, trained beside
    model.control = ""  # the frozen model of training.start_from: control networks
    # unet, ncsnpp, ddpm, adm and classifiers
    model.channels = 128  # at the highest resolution
    model.channel_multipliers = (1, 2, 2, 2)  # one a resolution, each half as high as the one before; adm: also 0.5
    model.dropout = 0.1
    model.input_frequencies = ()  # n: sin and cos of 2^n pi x lie beside the input x; dit, too. (VDM: 7, 8)
    # unet
    model.attention_depths = (-1,)  # resolutions with self-attention: 0 the highest, 1 the next …, or -1 the lowest
    model.periodic = ()  # axes that close on themselves, from 0, which is the height of images, the depth of volumes
    # ncsnpp, ddpm, adm and adm_classifier
    model.attention_resolutions = (16,)  # heights of images with self-attention
    model.resample_with_conv = True  # ddpm blocks: convolve when changing resolution
    model.time_conditional = True  # tell the network the time at all
    model.scale_by_sigma = False  # divide the output by sigma
    model.centered = True  # images come in [-1, 1]; False: in [0, 1], and the network centres them
    model.activation_checkpointing = False  # less memory, more time; unet, dit and adm, too
    # ncsnpp
    model.embedding = "positional"  # positional, fourier
    model.fourier_scale = 16.0  # standard deviation of the Fourier frequencies
    model.block = "biggan"  # biggan, ddpm
    model.fir = False  # filter when changing resolution …
    model.fir_kernel = (1, 3, 3, 1)  # … with this
    model.skip_rescale = True  # divide sums of two branches by sqrt(2)
    model.progressive = "none"  # none, output_skip, residual: output pyramid
    model.progressive_input = "none"  # none, input_skip, residual: input pyramid
    model.combine = "sum"  # sum, cat: how an input_skip pyramid joins
    model.init_scale = 0.0  # of the last layer of each branch
    model.channels_per_group = 4  # least number in a GroupNorm group
    # mlp
    model.width = 128  # features of a hidden layer; dit: of a patch
    # dit
    model.patch_size = 2  # positions of a patch along each axis
    model.num_heads = 4  # of attention; they divide the width; adm, too
    model.causal = False  # patches attend to none after them, row by row
    # adm and adm_classifier
    model.head_width = placeholder(int)  # of attention; None: model.num_heads heads at every width
    model.heads_first = False  # order in which attention makes queries, keys, values: most published ones: head by head
    model.scale_shift = True  # tell blocks the time by scale and shift of a norm; False: by what is added before it
    model.resample_in_blocks = True  # change resolution within residual blocks; False: by convolutions between them
    model.pool = "attention"  # of adm_classifier: adaptive, attention, spatial, spatial_v2
    model.num_heads_up = placeholder(int)  # of adm: heads in the decoder, if they are others
    # mixture
    model.num_components = 10
    # kl_autoencoder, vq_autoencoder; sizes of latents are those of examples divided by 2, for each further multiplier
    model.latent_channels = 4
    model.num_codes = 256  # vq_autoencoder: vectors that latents are rounded to
    # joint_embedding
    model.embedding_size = 64  # numbers of an embedding

    config.training = training = ConfigDict()
    # Fine-tuning: weights to begin with: a run or checkpoint of ours, a published one, or a pipeline of diffusers
    training.start_from = placeholder(str)
    training.num_steps = 10_000
    training.batch_size = 128  # of all processes together
    # continuous; discrete: DDPM's and SMLD's losses, for ladders; hybrid: IDDPM's, for model.variance=learned;
    # lagrangian: few-step models; variational: the bound, uniform in t, for the learned process, of which weighting,
    # times and t_min are no part
    training.objective = "continuous"
    # The run, or its checkpoint, whose flow is learnt: lagrangian (None: the model's own), and training.coupling=reflow
    training.teacher = placeholder(str)
    training.guidance = 1.0  # lagrangian, class_conditional: scale of the guidance of the teacher, which is learnt, too
    # Which noise goes with which data: independent; ot, by optimal transport within a batch; reflow, data are where the
    training.coupling = "independent"  # … teacher's flow takes the noise. With the last two a model is a flow, no score
    training.reflow_steps = 10  # reflow: network calls of the teacher for a batch
    training.label_dropout = 0.1  # probability that a condition (class, …) is hidden, so that p(x) is learnt too
    training.weighting = "likelihood"  # sigma2, likelihood, edm, flow: weight of each time in the loss
    training.times = "log_snr"  # how times are drawn: uniform (in t), log_snr (uniform in it), edm, logit_normal, mode;
    # hybrid: uniform, or loss_aware: each rung as often as its losses were large
    training.vlb_weight = 0.001  # hybrid: weight of the variational bound, which trains the variance
    # kl_autoencoder: weight of the rate; 1: the bound on the likelihood; less: better reconstructions
    training.rate_weight = 1.0
    training.commitment = 0.25  # vq_autoencoder: weight of what keeps vectors near their codes
    # kl_autoencoder, vq_autoencoder, of pictures: weight of the distance from reconstructions that a network sees …
    training.perceptual_weight = 0.0
    training.perceptual_network = placeholder(str)  # … one for pictures, in this folder, as transformers saves them
    # kl_autoencoder, vq_autoencoder: weight of an adversary, which learns to tell examples from reconstructions …
    training.adversarial_weight = 0.0
    training.adversarial_start = 0  # … from this step on
    training.reduce_mean = True  # average over dimensions; False: half their sum, as for the published VE networks
    training.t_min = 1e-5  # smallest time trained on
    training.stratified = True  # spread the times evenly over a batch
    training.edm_mean = -1.2  # edm: mean of log(sigma / alpha) …
    training.edm_std = 1.2  # … and its standard deviation
    training.logit_mean = 0.0  # logit_normal: mean of log(u / (1 - u)), u = t / T …
    training.logit_std = 1.0  # … and its standard deviation
    training.mode_scale = 1.29  # mode: how heavy the middle is; -1 (heavy ends) to 1.75
    training.time_shift = 1.0  # times are moved to a u / (1 + (a - 1) u); a > 1: more noise, for larger pictures
    training.optimizer = "adam"  # adam, adamw
    training.learning_rate = 2e-4
    training.schedule = "cosine"  # constant, cosine (to 0)
    training.warmup_steps = 1000  # the rate rises linearly from 0; cosine: for a tenth of the steps at most
    training.adam_beta1 = 0.9
    training.adam_beta2 = 0.999
    training.adam_eps = 1e-8
    training.weight_decay = 0.0
    training.max_grad_norm = 1.0  # gradients are clipped to this norm; 0: never
    training.ema_decay = 0.9999  # decay of the moving average, after a warm-up
    training.more_ema_decays = ()  # decays of further averages, kept beside it
    training.precision = "float32"  # float32, bfloat16 (autocast), auto: bfloat16 where the hardware multiplies it
    training.compile = False  # torch.compile the network
    training.channels_last = placeholder(bool)  # memory layout of convolutional networks; None: the device's fastest
    training.fused = True  # all of the optimiser's step in one operation
    training.accumulation = 1  # parts that a batch is done in, one after the other: less memory
    training.shard = False  # several processes: divide weights and optimiser among them, for networks that do not fit
    # Each of these is done every so many steps and at the end; 0: never (checkpoints: at the end only).
    training.log_every = 100
    training.evaluate_every = 1000  # held-out loss
    training.sample_every = 5000  # samples, in previews/ and TensorBoard
    training.measure_every = 0  # bits/dim of test examples, and distances of samples from them …
    training.num_measured = 250  # … and the number of these examples
    training.checkpoint_every = 5000
    training.keep_checkpoints = 2  # older ones are deleted …
    # The best checkpoint by the held-out loss is kept, too: checkpoints/best.pt.
    training.patience = 0  # training stops after so many held-out losses in a row that are not the best; 0: never
    training.keep_every = 0  # … but for those at multiples of so many steps; 0: all older ones are

    config.sampling = sampling = ConfigDict()
    sampling.solver = "default"
    sampling.num_samples = 64
    sampling.batch_size = 64  # drawn at once; with guidance a network has twice as many
    # Of a class-conditional model: the class of samples, or several, in turn: 3, cat, or 0,1,2; None: any
    sampling.labels = placeholder(str)
    # What they show, in words, of models that are told captions; or a .txt file of prompts, a line each, in turn …
    sampling.prompt = placeholder(str)
    sampling.negative_prompt = placeholder(str)  # … and what guidance leads away from; None: a picture of anything
    # Of models that are told embeddings: the run of configs/unclip/prior.py that draws them, given sampling.prompt
    sampling.prior = placeholder(str)
    # What else they are conditioned on: file.npz of one row, or several, in turn
    sampling.condition = placeholder(str)
    sampling.controls = ""  # runs of further controls beside the same frozen model, or beside this one, comma-separated
    sampling.control_scales = ()  # what each control is multiplied by, in order, this run's first; (): 1
    sampling.low_resolution_noise = 0.0  # of small pictures, for models trained with data.low_resolution_noise
    sampling.guidance = 1.0  # scale: 0 unconditional, 1 the plain conditional, more is guidance …
    sampling.guidance_interval = ()  # … between two values of rho = sigma / alpha; elsewhere 1
    sampling.guidance_rescale = 0.0  # share by which images get back their deviation without guidance (CFG-rescale)
    sampling.guidance_parallel = 1.0  # factor of what guidance adds along the denoised image; 0: across it alone (APG)
    sampling.guidance_largest = placeholder(float)  # the norm that the difference of the two denoised images may have
    sampling.reference = placeholder(str)  # guide away from this weaker model: its workdir or checkpoint; None: itself
    sampling.classifier = placeholder(str)  # guide p(x) by this classifier of noisy images: its workdir or checkpoint
    # The variance of steps with noise (pc; ddim with eta): model: its own; fixed: DDPM's beta-tilde, fixed_large: beta;
    # errors, errors_each: measured on held-out examples, one for all numbers or one for each; jacobian, jacobian_each:
    sampling.variance = "model"  # from the model's derivative at each state, by a random probe
    sampling.metrics = ""  # of images, against training images, comma-separated: fid, kid, is
    sampling.copies = False  # see whether samples are copies: how far they are from training examples
    sampling.inception = placeholder(str)  # file of Inception's weights for them; None: downloaded
    # Options of the solver; None: its own default. Those that a solver does not have are ignored.
    sampling.num_steps = placeholder(int)  # None: 20, if the solver has no default
    sampling.t_min = placeholder(float)  # last time before sigma = 0; None: the process's own
    # A name from solvers/grids.py, as karras, or uniform_t:3, shifted by 3; gits, for the model; or times: 1.0,0.5
    sampling.grid = placeholder(str)
    sampling.denoise = True  # end with the denoised mean
    sampling.data_std = placeholder(float)  # default: the data's standard deviation per dimension
    sampling.order = placeholder(int)  # default, deis, ipndm, unipc
    sampling.variant = placeholder(str)  # unipc: bh1, bh2
    sampling.variable = placeholder(str)  # deis: in which the noise is a polynomial: rho, log_snr, t
    sampling.lower_order_final = placeholder(bool)  # multistep solvers: end with steps of lower order
    sampling.renoise = placeholder(bool)  # consistency: each jump goes to the data, with new noise for the next
    sampling.threshold = placeholder(str)  # what denoised images are clipped to: static, dynamic
    sampling.s_churn = placeholder(float)  # heun, euler: EDM's noise, all steps together, …
    sampling.s_min = placeholder(float)  # … added where rho = sigma / alpha is from …
    sampling.s_max = placeholder(float)  # … to …
    sampling.s_noise = placeholder(float)  # … and multiplied by this
    sampling.eta = placeholder(float)  # amount of noise: 1 the reverse SDE, 0 the ODE; default and tuned: 0.7 is good
    sampling.learned_noise = False  # tuned: the amounts of noise that were learned from the data for each step
    sampling.predictor = placeholder(str)  # pc: euler_maruyama, reverse_diffusion, ancestral, none
    sampling.corrector = placeholder(str)  # pc: langevin, ald, none
    sampling.snr = placeholder(float)  # pc: signal-to-noise ratio of the corrector's step
    sampling.corrector_steps = placeholder(int)  # pc: corrections after each prediction
    sampling.step_size = placeholder(str)  # pc: time, published
    sampling.method = placeholder(str)  # ode: any of torchdiffeq's; sde: euler, milstein, srk
    sampling.options = placeholder(str)  # ode: further options of its method: first_step=0.01,max_num_steps=1000
    sampling.per_example = placeholder(bool)  # ode: adaptive steps of each example's own
    sampling.adaptive = placeholder(bool)  # sde: choose the steps by their error
    sampling.rtol = placeholder(float)  # relative tolerance of adaptive steps
    sampling.atol = placeholder(float)  # absolute tolerance of adaptive steps
    sampling.first_step = placeholder(float)  # adaptive_sde: the first step, as a part of T

    config.likelihood = likelihood = ConfigDict()
    likelihood.split = "test"  # test, validation, train
    likelihood.num_examples = placeholder(int)  # number of examples, the first ones; None: all
    likelihood.batch_size = 256
    # class_conditional: p(x): none; p(x | y) of each example's class: own; of all classes, and so a classifier: all
    likelihood.given = "none"
    likelihood.dequantisation = "uniform"  # of levels: uniform, truncated_normal (has its own t_min), variational
    likelihood.flow_steps = 1000  # variational: training steps of the noise's distribution, once for a checkpoint
    likelihood.num_draws = 1  # draws of dequantisation noise an example; with exact divergence also importance-weighted
    likelihood.bounds = ("discrete", "continuous", "scoreflow")  # variational bounds to report beside
    likelihood.bound_calls = 32  # network calls of each bound
    likelihood.num_rungs = 1000  # rungs of the discrete bound's ladder
    likelihood.variance = "model"  # of the discrete bound's steps: as in the section sampling
    likelihood.num_checks = 16  # examples measured again: tightly, with other probes, with other noise
    likelihood.save_latents = False  # write down where trajectories end
    likelihood.prior = "standard"  # standard; data: with the training data's mean and variance carried to T
    # Options of solvers.log_likelihood; None: its own default.
    likelihood.divergence = "hutchinson"  # hutchinson, exact, hutch++
    likelihood.num_probes = 1  # hutchinson, hutch++: random vectors an example
    likelihood.probe = "rademacher"  # rademacher, gaussian
    likelihood.t_min = placeholder(float)  # the density is that of p_t there; None: the process's own
    # adaptive_adams, tuned (steps learned for the model, of which likelihood.num_steps; None: 20), adams (fixed steps),
    # or any of torchdiffeq's, such as dopri5
    likelihood.method = "adaptive_adams"
    likelihood.options = placeholder(str)  # further options of the method: first_step=0.01,max_num_steps=1000
    likelihood.num_steps = placeholder(int)  # number of steps of methods with fixed steps, and of tuned
    likelihood.grid = placeholder(str)  # where these steps end, as in the section sampling
    likelihood.rtol = placeholder(float)  # relative tolerance of adaptive steps …
    likelihood.atol = placeholder(float)  # … and absolute tolerance
    likelihood.per_example = placeholder(bool)  # adaptive steps of each example's own

    config.edit = edit = ConfigDict()
    # inpaint, superres, deblur, and of pictures colorize: what is missing is sampled; sdedit; interpolate; encode;
    # upscale: by a model that is told small pictures, data.low_resolution
    edit.task = "inpaint"
    # A picture's file, or, of all kinds of data, test:5, test:5-9 for test examples; several, comma-separated.
    edit.input = placeholder(str)
    edit.observed = False  # the input is what was observed: grey, small, blurred, or with a hole, already
    edit.num_samples = 6  # answers to each input; interpolate: examples from one to the next
    # Its other options are those of the section sampling. (encode and interpolate have the solver ode, with its.)
    edit.solver = "dpmpp_2s_sde"
    edit.num_steps = placeholder(int)  # None: 50, if the solver has no default
    # pigdm, dps, mmps; with solvers of single steps also projection, repaint; tds, particles; trained, to inpaint with
    edit.method = placeholder(str)  # a model of data.masks; None: trained, if it is one, and otherwise pigdm
    edit.noise_std = 0.0  # standard deviation of the observation's noise, in model units; dps and tds need some
    edit.scale = 1.0  # pigdm, dps, mmps: multiple of the guidance
    edit.iterations = 5  # mmps: conjugate gradients, each of them a product with the network's derivative
    edit.num_particles = 32  # tds: particles for each answer, of which one is drawn
    edit.jump = 1  # repaint: steps gone back at once …
    edit.repeats = 10  # … and how often each jump is made
    edit.mask = "box"  # inpaint: what is hidden: box, random, or a picture's file, where that is dark
    # In parts of the example: one start and one length for every axis, or starts, then lengths: of pictures and fields
    # top, left, height, width; of series and vectors start, length; of volumes six numbers.
    edit.box = (0.25, 0.5)
    edit.hidden = 0.5  # mask random: share of pixels, times or columns that are hidden
    edit.factor = 2  # superres: how many times smaller what was observed is
    edit.blur = 1.0  # deblur: standard deviation of the filter, in pixels
    edit.strength = 0.5  # sdedit: how far the way to noise is gone, in parts of T
    edit.temperature = 1.0  # encode: factor of the latents before they are decoded

    config.tuning = tuning = ConfigDict()
    tuning.num_steps = tuple(range(3, 21))  # numbers of steps that tables for solver tuned are made of
    tuning.iterations = placeholder(int)  # by gradient, for each; None: 600 / N; 0: by least squares alone, in seconds
    # What they are learned from: endpoints of exact trajectories; with distribution, the noise of each step is then
    # learned from the training data, too, for --config.sampling.learned_noise=true.
    tuning.loss = "endpoints"

    config.compare = compare = ConfigDict()
    compare.solvers = ("default", "ddim", "dpmpp_2m", "unipc", "heun", "pc", "ode")
    compare.budgets = (5, 10, 20, 50)  # network calls a sample
    compare.repetitions = 3  # sets of samples with other noise, for error bars
    compare.num_samples = 500  # samples in each set
    compare.num_trajectories = 128  # of these, how many are compared with the exact trajectory's end
    compare.batch_size = 250

    return config.lock()
